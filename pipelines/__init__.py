"""From the official files on disk to a batch on the device.

What may enter: nothing; its modules are imported by name.
"""
