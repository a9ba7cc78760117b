"""An engine for studies of quality: named variants of a training, at equal images, over several seeds, each scored.

``plan.py`` says what is trained, ``job.py`` trains and scores one variant with one seed in a process of its own,
``engine.py`` runs the jobs and keeps the results, ``table.py`` renders them.
"""
