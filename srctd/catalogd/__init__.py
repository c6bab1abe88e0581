"""The embedded catalogue: SciCat's API on SQLite, for a laptop, a demo, or a beamline without a facility's own.

`server` runs it, `app` builds it, `router` finds the handler of a request, `v3` and `v4` hold the handlers,
`pages` shows the catalogue to people. `documents` says what a valid document is, `filters` reads the query
languages, `auth` knows tokens and passwords, `store` has all SQL.
"""
