"""The steps, oldest first. One that was released is never changed.

To change a table: change ``stores/tables.py``, add a step here, and its version to ``VERSIONS``. Tests compare them.
"""
