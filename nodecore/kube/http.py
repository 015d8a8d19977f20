"""aiohttp, imported without this machine's certificate authorities.

It makes a TLS context for anybody's https when it is imported, and the hundred and forty authorities in that cost every agent
2 MB and a tenth of a second. All our connections bring contexts of their own, so that one is left empty: it trusts nobody.
Read next: `nodecore/kube/client.py`.
"""

from __future__ import annotations

import os

NOTHING = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}  # what OpenSSL reads authorities from
_before = {name: os.environ.get(name) for name in NOTHING}
os.environ.update(NOTHING)
try:
    import aiohttp as aiohttp
    from aiohttp import web as web
finally:
    for _name, _value in _before.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value
