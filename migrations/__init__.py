"""The schema's history: frozen versions in ``versions/``, and the tool that applies them and takes them back.

``sql/`` and ``dictionaries/`` say what exists now, ``versions/`` how a database gets there. A version is a pair of
files: ``NNNN_name.sql`` with one statement a step, and ``NNNN_name.rollback.sql`` with as many statements, the last
step's first. A rollback statement also has to work where its step never ran (``DROP … IF EXISTS``): a migrator that is
killed leaves it open whether its last step did.
"""
