"""Artefacts over whole data sets.

Takes tables or folders of images, and an artefact. Returns a folder of Parquet files, a shard at a time, by as many
workers as there are. A folder knows what it was made of, so that a run that ended early goes on where it was.
"""
