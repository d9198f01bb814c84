"""Measuring swaps (Table 1): identity, pose, expression, background, occlusion and distances.

cases.py         what is measured: pairs of photos or video frames, and results of tools
methods.py       what makes results: two anchors, our own stages, other methods, files
flicker.py       how a swapped video changes from frame to frame
classical.py     a face swap without networks, to compare with
judges.py        what measures: detector, recogniser, landmarker, feature network
faces.py         faces of all source and target photos, detected and embedded once
metrics.py       figures and their 95 % intervals
detail.py        the target's fine detail that a result keeps
scores.py        a batch of pairs to its records
run.py           a whole run: loading, measuring, resuming
compare.py       several reports in one table and picture
report.py        records to report.json, report.md and report.html
groups.py        figures by kind of pair
report.html      template of the last one
curves.py        identity against attributes for several strengths
curves.svg       template of their picture
verification.py  how well an identity encoder tells people apart
"""
