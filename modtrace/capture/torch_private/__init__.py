"""Every private name of torch that modtrace uses: looked up once, with what stands in for it and what is lost without.

`spelled` are names that are read off objects one by one, and needs no torch; `lookup` finds names and keeps the table
of them; `names` are their values, `tracing`, `contexts` and `modes` what is asked and done by several of them.
"""
