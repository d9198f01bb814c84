"""HTTP API: photos are swapped at once, videos as jobs that outlive the server.

app.py      the server put together, and its folder
answers.py  forms of the answers
metrics.py  counters for Prometheus
routes.py   addresses and their fields
photos.py   swaps of photos: their limits, queue and work
jobs.py     swaps of videos in a worker: one thread that resumes what a server left
store.py    jobs in one SQLite file
"""
