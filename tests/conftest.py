"""What every level may use: the fixtures of real servers. Nothing is started before a test asks for it."""

from services.shared import (  # noqa: F401
    etcd3_server,
    etcd_server,
    nacos2_server,
    nacos3_server,
    own_server,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_unconfigure,
    unique_name,
)
