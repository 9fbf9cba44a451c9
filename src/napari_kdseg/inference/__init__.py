"""From a volume to labels, uncertainty and regions, tile by tile."""
