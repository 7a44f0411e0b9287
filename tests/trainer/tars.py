"""Tars for tests."""

import io
import tarfile


def write_tar(path, members):
    """A tar of (name, content); content may be a TarInfo that is added as it is."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder, counts):
    """Shards s-0.tar, s-1.tar, ... whose samples hold their own number over all shards."""
    folder.mkdir(exist_ok=True)
    number = 0
    for i, count in enumerate(counts):
        members = []
        for number in range(number, number + count):
            members += [(f"{number:06d}.txt", str(number).encode()), (f"{number:06d}.json", b"{}")]
        number += count > 0
        write_tar(folder / f"s-{i}.tar", members)
    return folder
