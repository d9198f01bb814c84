"""The web page for swapping, in Gradio: photos and videos, each browser with its own files.

clips.py      work on videos in a worker: frames with faces, and the swap
faces.py      faces of shown photos: found, drawn, and chosen by number or click
page.py       layout of the page, and which event calls which action
photo_tab.py  actions on the source and the photo tab
privacy.py    which browser may ask for which page and file
server.py     the page as an ASGI application, in a folder that is deleted at the end
sessions.py   open pages, their photos and files, and whose they are
video_tab.py  actions on the video tab
"""
