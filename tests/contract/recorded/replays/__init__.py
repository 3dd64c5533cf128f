"""Recorded exchanges with AWS's Lambda API, made again as calls of boto3 on a node."""
