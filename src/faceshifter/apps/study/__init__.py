"""User study: raters choose between the results of several methods (Section 4.1, Table 2).

study.py   pairs of photos and their results, from a CSV file
votes.py   raters, their votes in a SQLite file, and the table of shares
server.py  web server of the raters' page
page.html  the raters' page
"""
