"""Upload events as the pipeline sees them, and the JSON data they carry on the wire."""

from datetime import datetime

from pydantic import Field, JsonValue

from pixtide.schemas.base import Contract

UPLOADED_V1 = "pixtide.image.uploaded.v1"
DELETED_V1 = "pixtide.image.deleted.v1"


class InlinePicture(Contract):
    """The picture's bytes travel in the event."""

    data: bytes = Field(repr=False)
    content_type: str | None = None


class PictureAt(Contract):
    """The picture lies elsewhere: http, https, s3, gs, az or file.

    With an `etag`, only that content of it is wanted.
    """

    uri: str
    etag: str | None = None


class ImageUploaded(Contract):
    """A picture was added or replaced."""

    image_id: str
    event_id: str
    source: str
    uploaded_at: datetime
    picture: InlinePicture | PictureAt
    caption: str = ""
    tags: tuple[str, ...] = ()
    attributes: dict[str, JsonValue] = Field(default_factory=dict)
    sha256: str | None = None


class ImageDeleted(Contract):
    """A picture was removed: a tombstone or an explicit delete event."""

    image_id: str


ImageEvent = ImageUploaded | ImageDeleted


class UploadData(Contract):
    """The `application/json` data of an upload event: exactly one of `uri` and `data_base64`."""

    uri: str | None = None
    etag: str | None = None
    data_base64: str | None = Field(default=None, repr=False)
    caption: str | None = None
    tags: tuple[str, ...] | None = None
    attributes: dict[str, JsonValue] | None = None
    sha256: str | None = None
