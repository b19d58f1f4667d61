"""Faults of upstreams, the same at the same moments for Redbreast, Unbound and dnsmasq.

    spaces     network namespaces that end with what uses them
    upstreams  scripted upstreams: by datagrams, and over TLS
    servers    the three forwarders, each with its plain configuration
    questions  the clock: who is asked what and when, and what comes of it
    scenes     the faults, and what is asked of Redbreast in each
    verdict    what is lost and late, beside the others and what is asked; the table
    cli        the command line
"""
