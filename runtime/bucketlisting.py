"""Lists buckets of S3, with boto3 in a thread."""

from __future__ import annotations

import asyncio
from typing import Any

from .events.bucketchanges import Listing, Object


class BucketListing:
    """Lists buckets at ``endpoint``; where that is empty or ``aws``, where the environment says S3 is."""

    def __init__(self, endpoint: str, region: str) -> None:
        self._endpoint = None if endpoint in ("", "aws") else endpoint
        self._region = region
        self._client: Any = None

    async def __call__(self, bucket: str) -> Listing:
        """Return all objects of a bucket. Raises what boto3 raises."""
        return await asyncio.to_thread(self._list, bucket)

    def _list(self, bucket: str) -> Listing:
        if self._client is None:
            import boto3  # a node without buckets does not pay for it

            self._client = boto3.client("s3", endpoint_url=self._endpoint, region_name=self._region)
        found = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", ()):
                etag = str(one["ETag"]).strip('"')
                version = f"{one['LastModified'].isoformat()}/{etag}"
                found[one["Key"]] = Object(one["Key"], one["Size"], etag, version)
        return found
