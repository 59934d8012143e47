"""From a data set's files on disk to a batch on the device."""
