"""Web servers, each an extra of the package: the HTTP API, the web page and the user study.

http.py      address, socket and start of a server
guard.py     who is let in, how large and how slow a request may be
uploads.py   photos and videos of strangers: their kind and size before they are decoded
worker.py    a process of its own that may crash
problems.py  errors as answers: a code and a sentence
sqlite.py    connections to a database that survives a killed server
serve/       HTTP API: photos at once, videos as jobs
study/       user study of Table 2
ui/          web page
"""
