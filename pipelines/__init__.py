import cluster.session  # noqa: F401 - before any module here imports ray: it sets what Ray reads meanwhile
