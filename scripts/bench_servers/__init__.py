"""The comparison of DNS servers with the echo floor.

    names     the names served and the queries asked
    dns       the little DNS needed to see whether a server answers rightly
    process   one process started here: pinned, logged, its CPU time read, ended by its id
    servers   a class per server: its configuration, its command, whether it is ready
    load      the load generators
    latency   what they say of latency in an open loop
    rounds    who is measured when, and what is kept of it
    table     the results as text
    cli       the command line
"""


class Fault(Exception):
    """Something to be told in one clear line; `status` is the exit status it ends the program with."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status
