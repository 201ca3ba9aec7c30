"""What a suite measured, in words: printed at the end of the run, whether or not its tests passed."""

LINES = []


def say(title, rows):
    """Keeps a table; each row is a sequence of cells, the first row names the columns."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    LINES.append(f"-- {title}")
    LINES.extend("   " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)
