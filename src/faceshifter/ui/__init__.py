"""The web page for swapping: drop photos or a video, choose faces, see what comes out."""
