"""Sends the real Kaggle client of a child process to KAGGLE_TEST_SERVER.

Version 2.2.4 has no setting for its endpoint. With this folder on PYTHONPATH, Python runs this
file before anything else, so that `import kaggle`, too, signs in at the test server.
"""

import os

if server := os.environ.get("KAGGLE_TEST_SERVER"):
    from kagglesdk import kaggle_env

    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = server
