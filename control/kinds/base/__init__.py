"""What the kinds are made of. No kind is named here.

Nouns: ``Resource`` and ``Model`` (model: the frame of every resource), field types with their checks (fields),
``Fault`` (fault: one mistake of a request), ``Kind`` (kind: everything about one kind), ``View`` and ``Proposal``
(kind: the resources that projections and checks see), ``Mesh`` (mesh: what wire objects say of the mesh as a whole),
``Selector`` and ``ReferenceField`` (relations), cells of tables (cells), labels of live flows (flows), what Istio's
shapes share (istio).
"""
