#!/usr/bin/env python3
"""image.py OUT.tar NAME:TAG ENTRYPOINT [--glibc] SOURCE=PATH...

Writes an OCI image layout, as one tar, without a daemon, a registry or a base image:

    oci-layout                      "this is a layout"
    index.json ──▶ manifest ──▶ config        entry point, user, environment
                           ╰──▶ layers        1 what programs stand on, 2 the programs

No shell, no package manager, nothing that a program does not open; user 65532. Every SOURCE must be static, or with
--glibc may need libraries: what the dynamic loader names for it on this machine comes along. The same input gives the same
bytes.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile

USER = 65532
PASSWD = f"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n"
GROUP = f"root:x:0:\nnonroot:x:{USER}:\n"
NSSWITCH = "hosts: files dns\n"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--glibc"]
    glibc = "--glibc" in sys.argv
    if len(arguments) < 4 or not all("=" in pair for pair in arguments[3:]):
        sys.exit(__doc__)
    out, name, entry = arguments[:3]
    programs = dict(reversed(pair.split("=", 1)) for pair in arguments[3:])
    under = base(programs.values() if glibc else [])
    write(out, name, entry, [layer(under), layer({path: contents(source) for path, source in programs.items()})])
    print(f"{name} -> {out}, {os.path.getsize(out) / 1e6:.1f} MB")


def base(needing_libraries) -> dict[str, bytes]:
    """What programs stand on: users, name service, the world's certificates, and the libraries of `needing_libraries`."""
    files = {"/etc/passwd": PASSWD.encode(), "/etc/group": GROUP.encode(), "/etc/nsswitch.conf": NSSWITCH.encode()}
    if os.path.exists(CERTIFICATES):
        files[CERTIFICATES] = contents(CERTIFICATES)
    for program in needing_libraries:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        if "not found" in said:
            sys.exit(f"{program} needs a library that is not here:\n{said}")
        # `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)`, and the loader itself by its path alone.
        for library in re.findall(r"(/\S+) \(0x", said):
            files[library] = contents(library)
    return files


def layer(files: dict[str, bytes]) -> bytes:
    """A tar of `files` below their folders, all root's and not to be written."""
    out = io.BytesIO()
    folders = sorted({folder for path in files for folder in parents(path)})
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in folders:
            entry = tarfile.TarInfo(folder.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, data in sorted(files.items()):
            add(tar, path.lstrip("/"), data, 0o644 if path.startswith("/etc/") else 0o755)
    return out.getvalue()


def write(out: str, name: str, entry: str, layers: list[bytes]) -> None:
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    kept = [blob("layer.v1.tar", each) for each in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": f"{USER}:{USER}", "Entrypoint": [entry], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in kept]},
    }
    manifest = blob("manifest.v1+json", packed({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", packed(config)),
        "layers": kept,
    }))
    # containerd reads the whole name from its own annotation, others the tag from OCI's.
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
    manifest["platform"] = {"architecture": "amd64", "os": "linux"}
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        add(tar, "oci-layout", packed({"imageLayoutVersion": "1.0.0"}))
        add(tar, "index.json", packed({"schemaVersion": 2, "manifests": [manifest]}))
        for path, data in blobs.items():
            add(tar, path, data)


def add(tar: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def parents(path: str) -> list[str]:
    folder = os.path.dirname(path)
    return [] if folder in ("/", "") else [*parents(folder), folder]


def packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    main()
