"""What the docks show, without Qt and napari: plain objects that say when they change.

They start no threads; one timer of the viewer calls their ``poll``.
"""
