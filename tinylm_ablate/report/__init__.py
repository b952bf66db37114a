"""Reports on finished runs, as HTML, Markdown and LaTeX:

    records -> frame -> science -> blocks -> html, markdown, latex

Nothing here trains, and renderers do not read each other's output.
"""
