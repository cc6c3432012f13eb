"""``meshctl``: the operator's command line. It talks to the public API like any client and knows nothing else of
control.

Nouns: ``Client`` (client), ``Access`` (where control is and who we are; access), ``Document`` (one object of a file;
documents), kinds and tables (kinds, tables). Nobody imports it.
"""
