"""The results as text."""

COLUMNS = ("q/s", "ratio", "min..max", "user ns/q", "system ns/q", "server CPU", "waited", "load CPU", "lost", "memory MiB", "ready s")


def render(first_column: str, rows: dict[str, dict]) -> str:
    """Lines up the rows under their headings: the first column to the left, figures to the right."""
    lines = [(first_column, *COLUMNS), *((name, *cells(row)) for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    )


def cells(row: dict) -> tuple[str, ...]:
    ratio = row["ratio"]
    return (
        f"{row['qps']:,.0f}",
        f"{ratio['median']:.3f}",
        f"{ratio['min']:.2f}..{ratio['max']:.2f}",
        f"{row['user_ns_per_query']:,.0f}",
        f"{row['system_ns_per_query']:,.0f}",
        f"{row['server_cpu']:.0%}",
        f"{row['server_waited']:.0%}",
        f"{row['load_cpu']:.0%}",
        f"{row['lost']:,}",
        f"{row['memory_mib']:,.1f}" if "memory_mib" in row else "-",
        f"{row['ready_s']:.2f}" if "ready_s" in row else "-",
    )
