"""Code that a template names in S3: every way to write it, and where what is wrong with it is said."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from glowplug.deploy import review as reviewing
from glowplug.deploy.errors import ArchiveError, TemplateError
from glowplug.deploy.requirements import FILE
from glowplug.deploy.review import review
from glowplug.deploy.template import parse
from glowplug.deploy.together import Site
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.codeobjects import CodeObject

HEAD = "Transform: AWS::Serverless-2016-10-31\nParameters: {Bucket: {Type: String, Default: packages}}\nResources:\n"
FUNCTION = """\
  App:
    Type: AWS::Serverless::Function
    Properties: {Handler: app.handler, Runtime: python3.11, CodeUri: PLACE}
"""
PLAIN = """\
  Plain:
    Type: AWS::Lambda::Function
    Properties: {Handler: app.handler, Runtime: python3.11, Role: r, Code: PLACE}
"""
LAYER = """\
  Deps:
    Type: AWS::Serverless::LayerVersion
    Metadata: {BuildMethod: makefile}
    Properties: {ContentUri: PLACE}
"""
PLAIN_LAYER = """\
  Deps:
    Type: AWS::Lambda::LayerVersion
    Properties: {Content: PLACE}
"""
SHARED = "Globals: {Function: {CodeUri: s3://b/k}}\n"


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "x = 1\n")
    return buffer.getvalue()


class Bucket:
    """Objects in S3, and which of them were asked for."""

    def __init__(self, data: bytes = zipped("app.py", FILE)) -> None:
        self.data = data
        self.asked: list[CodeObject] = []

    def fetch(self, wanted: CodeObject) -> bytes:
        self.asked.append(wanted)
        if wanted.bucket == "nowhere":
            raise ArchiveError(f"{wanted}: S3 Error Code: NoSuchBucket")
        return self.data


def translated(text: str, bucket: Bucket) -> Stack:
    template = parse(HEAD + text, path=Path("/nothing/here/template.yaml"), name="template.yaml")
    return translate(template, stack="main", fetch=bucket.fetch)


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("s3://packages/a/b", CodeObject("packages", "a/b")),
        ("'s3://packages/a?versionId=v1'", CodeObject("packages", "a", "v1")),
        ('!Sub "s3://${Bucket}/a"', CodeObject("packages", "a")),
        ("{Bucket: !Ref Bucket, Key: a}", CodeObject("packages", "a")),
        ("{Bucket: packages, Key: a, Version: v1}", CodeObject("packages", "a", "v1")),
    ],
)
@pytest.mark.parametrize("resource", [FUNCTION, LAYER])
def test_sams_properties_name_an_object_by_its_address_or_its_parts(
    resource: str, place: str, wanted: CodeObject
) -> None:
    bucket = Bucket()
    stack = translated(resource.replace("PLACE", place), bucket)
    assert [wanted] == bucket.asked
    digest = hashlib.sha256(bucket.data).hexdigest()
    [definition] = (stack.definitions.layers if resource is LAYER else stack.definitions.functions).values()
    assert (digest, [digest]) == (definition["CodeSha256"], list(stack.archives))
    assert ({}, None) == (stack.builds, stack.archives[digest].path)  # built by whoever packaged it


@pytest.mark.parametrize("resource", [PLAIN, PLAIN_LAYER])
def test_lambdas_properties_have_their_own_names_for_the_parts(resource: str) -> None:
    bucket = Bucket()
    translated(resource.replace("PLACE", "{S3Bucket: b, S3Key: k, S3ObjectVersion: v}"), bucket)
    assert [CodeObject("b", "k", "v")] == bucket.asked


def test_an_object_that_several_functions_have_is_read_once() -> None:
    bucket = Bucket()
    inherits = FUNCTION.replace("App", "Other").replace(", CodeUri: PLACE", "")
    stack = translated(f"{FUNCTION.replace('PLACE', 's3://b/k')}{inherits}{SHARED}", bucket)
    assert ([CodeObject("b", "k")], 2, 1) == (bucket.asked, len(stack.definitions.functions), len(stack.archives))


@pytest.mark.parametrize(
    ("resource", "place", "problem"),
    [
        (FUNCTION, "s3://nowhere/k", "6: App.Properties.CodeUri: s3://nowhere/k: S3 Error Code: NoSuchBucket"),
        (FUNCTION, "s3://b/torn", "6: App.Properties.CodeUri: s3://b/torn is not a zip file: File is not a zip file"),
        (FUNCTION, "s3://b", "6: App.Properties.CodeUri: 's3://b' is not s3://bucket/key"),
        (FUNCTION, "{Bucket: b}", "6: App.Properties.CodeUri.Key: is missing"),
        (FUNCTION, "{Bucket: b, Key: 3}", "6: App.Properties.CodeUri.Key: must be text, not 3"),
        (
            FUNCTION,
            "{Bucket: b, Key: k, Verson: v}",
            "6: App.Properties.CodeUri.Verson: unknown key; did you mean Version?",
        ),
        (FUNCTION, "{S3Bucket: b, S3Key: k}", "6: App.Properties.CodeUri.S3Bucket: unknown key; did you mean Bucket?"),
        (PLAIN, "{S3Bucket: nowhere, S3Key: k}", "6: Plain.Properties.Code: s3://nowhere/k: S3 Error Code"),
        (PLAIN, "{ImageUri: image}", "6: Plain.Properties.Code.ImageUri: is not supported yet"),
        (LAYER, "s3://nowhere/k", "7: Deps.Properties.ContentUri: s3://nowhere/k: S3 Error Code: NoSuchBucket"),
        (PLAIN_LAYER, "{S3Bucket: b}", "6: Deps.Properties.Content.S3Key: is missing"),
    ],
)
def test_what_cannot_be_read_is_said_with_template_line_and_field(resource: str, place: str, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        translated(resource.replace("PLACE", place), Bucket(b"torn"))
    assert f"template.yaml:{problem}" in str(caught.value)


def test_a_review_reads_an_object_once_in_all_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    monkeypatch.setattr(reviewing, "fetched", bucket.fetch)
    wrong = FUNCTION.replace("App", "Wrong").replace("app.handler", "''").replace("PLACE", "s3://b/other")
    text = FUNCTION.replace("PLACE", "s3://b/k") + wrong
    template = parse(HEAD + text, path=Path("/t.yaml"), name="t.yaml")
    found = review(template, "main", Site(), parameters={}, strict=False)
    assert (1, [CodeObject("b", "k"), CodeObject("b", "other")]) == (len(found.problems), bucket.asked)
