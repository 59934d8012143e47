"""From the official files on disk to a batch on the device."""
