"""`make bench`: what the mesh costs beside no mesh, Envoy and HAProxy, measured in one interleaved run.

Nouns: a **system** (`systems`: direct, nodemesh, envoy, haproxy) deploys its proxies on a **site** (`sites`: the
namespaces of one topology) and tells where client and server programs run; a **case** (`cases`) drives one program
through it and returns a **sample** (`figures`); `rounds` runs the systems of a case in turn; `report` makes the
documents. Run as `python -m tests.bench` (root). Imported by its own unit tests only.
"""
