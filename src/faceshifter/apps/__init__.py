"""Web servers, each an extra of the package: the HTTP API, the web page and the user study.

http.py    address, socket and start of a server
guard.py   who is let in, how large and how slow a request may be
sqlite.py  connections to a database that survives a killed server
serve/     HTTP API: photos at once, videos as jobs
study/     user study of Table 2
ui/        web page
"""
