"""Writes docs/settings.md from the settings themselves: `python docs/generate.py`."""

from pathlib import Path

from streams.settings import PREFIX, Settings

PAGE = Path(__file__).parent / "settings.md"


def settings_page() -> str:
    """The page, as it should be."""
    lines = [
        "# Settings",
        "",
        "Written by `python docs/generate.py`. Each is an environment variable, read once at the",
        "start; a wrong value or an unknown `PIXTIDE_` name stops the start by name. Lists are",
        "written with commas. `PIXTIDE_KAFKA_PASSWORD_FILE` and `PIXTIDE_WEAVIATE_API_KEY_FILE`",
        "name files that hold the secret. `pixtide config` prints the effective values.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "", ()) else f"`{_written(field.default)}`"
        meaning = (field.description or _MEANINGS[name]).replace("|", "\\|")
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {default.replace('|', chr(92) + '|')} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


#: Settings whose name and type say it all in the code.
_MEANINGS = {
    "weaviate_grpc_port": "Weaviate's gRPC port, on the URL's host",
    "weaviate_api_key": "Weaviate's API key",
    "device": "auto, cpu or cuda: where the model runs; auto takes a GPU if there is one",
    "precision": "fp32, bf16 or fp16; all three share a model's fingerprint",
    "batch_size": "pictures encoded and written at once",
    "max_picture_bytes": "a larger picture is dead-lettered as TOO_LARGE",
    "max_pixels": "a picture of more pixels is dead-lettered as PIXEL_LIMIT",
    "decode_timeout_s": "for one picture; then it is dead-lettered as DECODE_TIMEOUT",
    "in_flight_records": "records a worker takes on before it pauses",
    "in_flight_bytes": "bytes of records a worker takes on before it pauses",
}


if __name__ == "__main__":
    PAGE.write_text(settings_page())
