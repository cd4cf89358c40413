"""What the `evaluate` modules beside this file share."""

import datasets
import evaluate


def info(description: str | None, source: str) -> evaluate.MetricInfo:
    """Of a metric that compares a text with several references, and where it is from."""
    return evaluate.MetricInfo(
        description=description or "",
        citation=source,
        inputs_description="predictions: texts; references: for each a list of texts",
        features=datasets.Features(
            {
                "predictions": datasets.Value("string"),
                "references": datasets.List(datasets.Value("string")),
            }
        ),
    )


def one_line(text: str) -> str:
    """A text with one space for each run of white space, line ends of any kind among them."""
    return " ".join(text.split())
