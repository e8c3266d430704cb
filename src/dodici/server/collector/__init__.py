"""A collector as a program, or as a part of `dodici up`.

    config    the table `[collector]`, as values
    build     a `Collector` of these values: handlers are imported, services registered
    node      keeps it going: dials peers until they answer, drains, tells its figures
    passage   the app of a service that is somewhere in the collective

Needs the extra `collective`; nothing else of `dodici.server` imports this before a file has a table `[collector]`.
"""

from __future__ import annotations
