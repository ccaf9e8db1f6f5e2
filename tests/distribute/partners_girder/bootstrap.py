"""First data of a test's Girder: an administrator, a file store and an API key, which is printed. Run by Girder's Python.

python bootstrap.py MONGO_URI STORE_FOLDER LOGIN PASSWORD     (the password is for this test only)
"""

import logging
import sys

from girder.utility import config


def main(uri, store, login, password):
    config.getConfig()["database"]["uri"] = uri
    logging.disable(logging.CRITICAL)
    from girder.utility.server import create_app

    create_app(mode="production")
    from girder.models.api_key import ApiKey
    from girder.models.assetstore import Assetstore
    from girder.models.user import User

    user = User().createUser(login, password, "Test", "User", f"{login}@example.org", admin=True)
    Assetstore().createFilesystemAssetstore("store", store)
    print("api-key", ApiKey().createApiKey(user, "test")["key"])


main(*sys.argv[1:])
