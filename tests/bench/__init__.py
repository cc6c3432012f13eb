"""`make bench`: what the mesh costs beside no mesh, Envoy and HAProxy, measured in one interleaved run.

Nouns: a **system** (`systems`: direct, nodemesh with and without splicing, Envoy as TCP proxy and as HTTP/2 tunnel,
HAProxy) deploys its proxies on a **site** (`sites`: the namespaces of one topology) and tells where client and server
programs run; a **case** (`cases`, `soak`; by name in `catalogue`) drives one program through it and returns a
**sample** (`figures`). `fleet` brings the systems up and down together, `rounds` runs those of a case in turn;
`report` and `picture` make the documents, `verdicts` says which **targets** are met.

`bulk` and `bulk-8` go from event loop to event loop (`clients/bulk.c`, `compiled`), as between real servers; iperf3,
whose receiver blocks in recv() and is relayed on one node for that, has a case of its own.

CPU is counted for the proxies, and for all parties with their softirq (`usage`). `schedule` says beforehand how long
it takes. `guard` gives everything back also when the benchmark is killed. `keep` puts the figures of a whole run into
`results/`, which README shows. Run as `python -m tests.bench` (root). Imported by its own unit tests only.
"""
