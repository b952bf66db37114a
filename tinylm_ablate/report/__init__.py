"""From runs to pages: records become one frame, statistics, a page of blocks, and that HTML, Markdown and LaTeX.

    records -> frame -> science -> blocks -> html, markdown, latex

Nothing here trains, and no renderer reads what another wrote.
"""
