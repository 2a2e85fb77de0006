"""The page and its JSON API: a Kafka client of both paths, and a reader of the index.

app.py          the application: every route, and what serves it
build.py        puts it together from the settings
serve.py        serves it until a signal
connections.py  how many connections, and how long each may take
guard.py        who may ask: hosts, origins, token, sizes; and the headers of every answer
session.py      signing in with the token
rates.py        how often one client may ask
lanes.py        how much slow work there is at once, shared fairly between clients
shared.py       answers that all who ask share
bodies.py       bodies of requests, up to a limit
problems.py     errors as JSON
searching.py    searches over Kafka
live_index.py   the rows of the live generation
pictures.py     rows, thumbnails and originals of what is indexed
thumbnails.py   thumbnails that were made
publishing.py   uploads and deletes, as events
outcomes.py     the outcomes of events, as they come
dead_letters.py what could not be indexed, and trying it again
status.py       generations, counts and lag; liveness and readiness
readiness.py    whether searches can be served, looked at in threads of its own
openapi.py      the description of all this
static/         the page: HTML, CSS and ES modules, served as they are
"""
