"""Long work outside the page: what was asked for, how far it is, and who is doing it.

A *run* is a request that somebody made; it lies in the store's index, so it outlives whoever asked and whoever works.
Its *tasks* are small and idempotent: each looks in the store first, so that resuming is running again. ``board.py``
knows runs and tasks; ``requests.py`` says what can be asked for, and ``plans.py`` which tasks that takes and how long;
``progress.py`` says how far a run is. ``service.py`` is what pages and the command line use; ``workers.py`` does one
task; ``here.py`` does them one by one in this process, and ``runner.py`` is the process that hands them to Dask
(``pool.py``).
"""
