"""Tables and code in Markdown, whatever is in a cell."""

from mlops_pkg.core.markdown import as_code, markdown_table


def test_any_name_is_shown_as_code() -> None:
    assert as_code("größe (cm)") == "`größe (cm)`"
    assert as_code("a`b``c") == "``` a`b``c ```"
    assert markdown_table([as_code("a|b")], [["<i>"]]) == "| `a\\|b` |\n| --- |\n| <i> |"


def test_a_line_break_in_a_cell_begins_no_heading() -> None:
    assert markdown_table(["a"], [["x\r\n## License\n\nMIT"]]) == "| a |\n| --- |\n| x ## License MIT |"
