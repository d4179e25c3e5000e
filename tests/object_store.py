"""An S3 server on this machine. It records its requests and refuses those that a test names."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
DENIED = b"<Error><Code>%b</Code><Message>Refused</Message></Error>"


class ObjectStore:
    """A server with one bucket.

    Attributes
    ----------
    environment : dict of str to str
        The environment variables by which a process finds the server.
    asked : list of str
        Every request so far, as ``GET photos/cats/000.png`` or ``LIST photos/``.
    refused : callable
        A function from a request, as in `asked`, to the S3 error code to answer, or a web page, or
        nothing.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused: Callable[[str], str] = lambda request: ""
        moto: Any = DomainDispatcherApplication(create_backend_app)

        def application(about: dict[str, Any], respond: Any) -> Iterable[bytes]:
            request = _request(about)
            self.asked.append(request)
            code = self.refused(request)
            if code.startswith("<"):
                respond("200 OK", [("Content-Type", "text/html")])
                return [code.encode()]
            if code == "InternalError":
                respond("500 Internal Server Error", [("Content-Type", "application/xml")])
                return [DENIED % code.encode()]
            if code:
                respond("403 Forbidden", [("Content-Type", "application/xml")])
                return [DENIED % code.encode()]
            answer: Iterable[bytes] = moto(about, respond)
            return answer

        self.server = make_server(
            "127.0.0.1", 0, application, threaded=True, request_handler=_Quiet
        )
        endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="somebody",
            aws_secret_access_key="something",
            region_name="us-east-1",
            config=Config(proxies={}),
        )

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [item["Key"] for item in found]

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def upload(self, folder: Path, prefix: str) -> str:
        """Put the files of a folder there and return the URL; empty folders become markers."""
        for path in sorted(folder.rglob("*")):
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            if path.is_file():
                self.put(key, path.read_bytes())
            elif not any(path.iterdir()):
                self.put(f"{key}/", b"")
        return f"s3://{BUCKET}/{prefix}"

    def asks(self) -> list[str]:
        """Return the requests since the last call."""
        asked, self.asked[:] = self.asked[:], []
        return asked


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


def _request(about: dict[str, Any]) -> str:
    key = about["PATH_INFO"].encode("latin-1").decode().partition(f"/{BUCKET}")[2].lstrip("/")
    query = parse_qs(about["QUERY_STRING"])
    if "list-type" in query:
        return f"LIST {query.get('prefix', [''])[0]}"
    return f"{about['REQUEST_METHOD']} {key}"


@contextmanager
def served() -> Iterator[ObjectStore]:
    store = ObjectStore()
    thread = threading.Thread(target=store.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        store.client.create_bucket(Bucket=BUCKET)
        yield store
    finally:
        store.server.shutdown()
        thread.join()
        store.server.server_close()
