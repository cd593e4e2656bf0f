"""Hostile pictures and folders: main.py takes them as they are meant, or says in one line why not, in bounded
time and memory."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.hostile import files
from tests.hostile.cases import Cases, check

FOLDER = ["--name_data", "imagefolder"]

CASES = Cases()
refused, taken = CASES.refused, CASES.taken


# --- decompression bombs, and sizes that do not fit ---


@refused("has more than", *FOLDER)
def a_bomb_by_its_header(root):
    (files.pictures(root) / "bomb.png").write_bytes(files.png(20000, 20000))


@refused("has more than", *FOLDER)
def a_bomb_beyond_32_bits(root):
    (files.pictures(root) / "bomb.png").write_bytes(files.png(2**31 - 1, 2**31 - 1))


@refused("has more than", *FOLDER)
def a_whole_first_picture_of_13000_x_13000(root):
    (files.pictures(root) / "0.png").write_bytes(files.black_png(13000))


@refused("too many to be everybody's size: say --image_size", *FOLDER)
def a_whole_first_picture_of_9000_x_9000(root):
    (files.pictures(root) / "0.png").write_bytes(files.black_png(9000))


@taken("1 of 17 pictures were resized", *FOLDER)
def a_whole_picture_of_9000_x_9000_among_others(root):
    (files.pictures(root) / "z.png").write_bytes(files.black_png(9000))


@refused("of memory, but only", *FOLDER, "--image_size", "8")
def many_that_are_large_at_once(root):
    data = files.black_png(9000)
    for index in range(8):
        (files.pictures(root) if index == 0 else root / "datasets/train/cat").joinpath(
            f"{index}.png"
        ).write_bytes(data)


@refused("", *FOLDER, "--image_size", "20000")
def an_image_size_beyond_the_memory(root):
    files.pictures(root)


@refused("has more than", *FOLDER)
def a_gif_of_65535_x_65535(root):
    data = bytearray(files.content("gif"))
    data[6:10] = b"\xff" * 4
    (files.pictures(root) / "bomb.gif").write_bytes(data)


@refused("has more than", *FOLDER)
def a_bmp_of_two_thousand_million_columns(root):
    data = bytearray(files.content("bmp"))
    data[18:26] = struct.pack("<2i", 2**31 - 1, 2**31 - 1)
    (files.pictures(root) / "bomb.bmp").write_bytes(data)


@refused("has more than", *FOLDER)
def a_jpeg_of_65500_x_65500(root):
    data = bytearray(files.content("jpg"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">2H", 65500, 65500)
    (files.pictures(root) / "bomb.jpg").write_bytes(data)


@refused("has more than", *FOLDER)
def a_tiff_of_a_thousand_million_rows(root):
    data = bytearray(files.content("tif"))
    start = struct.unpack_from("<I", data, 4)[0] + 2
    for entry in range(start, len(data) - 11, 12):
        if struct.unpack_from("<H", data, entry)[0] in (256, 257):
            struct.pack_into("<HII", data, entry + 2, 4, 1, 2**30)
    (files.pictures(root) / "bomb.tif").write_bytes(data)


@refused("bomb.ico: ", *FOLDER)
def an_icon_that_holds_a_bomb(root):
    bomb = files.png(20000, 20000)
    header = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(bomb), 22)
    (files.pictures(root) / "bomb.ico").write_bytes(header + bomb)


@refused("bomb.png: cannot read the picture: ", *FOLDER)
def a_text_chunk_that_unpacks_to_a_gigabyte(root):
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(1 << 24)) for _ in range(16)) + packer.flush()
    chunk = (b"zTXt", b"Comment\0\0" + text)
    (files.pictures(root) / "bomb.png").write_bytes(files.png(8, 8, zlib.compress(bytes(16)), *[chunk] * 5))


@taken("first of several", *FOLDER, "--image_size", "28")
def an_animation_of_a_thousand_frames(root):
    frames = [files.picture(seed, 4) for seed in range(1000)]
    path = files.pictures(root) / "animation.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])


@refused("", *FOLDER)
def a_picture_of_one_row(root):
    (files.pictures(root) / "0.png").write_bytes(files.png(30000, 1, zlib.compress(bytes(3751))))


# --- damaged pictures ---


@refused("x.png: cannot read the picture", *FOLDER)
def a_truncated_png(root):
    (files.pictures(root) / "x.png").write_bytes(files.content("png")[:500])


@refused("x.jpg: cannot read the picture", *FOLDER)
def a_truncated_jpeg(root):
    (files.pictures(root) / "x.jpg").write_bytes(files.content("jpg")[:700])


@refused("x.webp: cannot read the picture", *FOLDER)
def a_truncated_webp(root):
    (files.pictures(root) / "x.webp").write_bytes(files.content("webp")[:200])


@refused("x.png: cannot read the picture: it is damaged, or none", *FOLDER)
def an_empty_file(root):
    (files.pictures(root) / "x.png").write_bytes(b"")


@refused("x.jpg: cannot read the picture: it is damaged, or none", *FOLDER)
def text_that_is_called_a_picture(root):
    (files.pictures(root) / "x.jpg").write_text("no picture\n" * 1000)


@refused("x.png: cannot read the picture", *FOLDER)
def a_program_for_a_printer_that_is_called_a_picture(root):
    (files.pictures(root) / "x.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    )


@refused("x.png: cannot read the picture", *FOLDER)
def a_png_of_other_bits(root):
    data = bytearray(files.content("png"))
    data[60:70] = bytes(10)
    (files.pictures(root) / "x.png").write_bytes(data)


@refused("x.png: cannot read the picture", *FOLDER)
def a_png_without_columns(root):
    (files.pictures(root) / "x.png").write_bytes(files.png(0, 8, zlib.compress(bytes(16))))


@refused("x.tif: cannot read the picture", *FOLDER)
def a_tiff_whose_directory_is_itself(root):
    (files.pictures(root) / "x.tif").write_bytes(b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0")


@refused("from 0 to 1 or from 0 to 255, but got nan", *FOLDER)
def floating_point_that_is_no_number(root):
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(files.pictures(root) / "x.tif")


@refused("32-bit integers have no known range", *FOLDER)
def integers_of_no_range(root):
    Image.fromarray(np.full((8, 8), 10**9, np.int32)).save(files.pictures(root) / "x.tif")


@taken("17 pictures in 2 classes", *FOLDER)
def exif_data_that_leads_around_in_a_circle(root):
    data = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08"
    (files.pictures(root) / "x.jpg").write_bytes(files.content("jpg", exif=data))


@taken("17 pictures in 2 classes", *FOLDER)
def a_palette_that_lacks_the_colours_that_are_used(root):
    data = files.png(8, 8, zlib.compress((b"\0" + bytes(range(8))) * 8), (b"PLTE", b"abc"), depth=8, kind=3)
    (files.pictures(root) / "x.png").write_bytes(data)


@taken("17 of 17 pictures were turned grey", *FOLDER, "--image_channels", "1")
def pictures_of_every_kind_of_values(root):
    folder = files.pictures(root)
    for part in ("train/cat", "train/dog"):
        for path in (root / "datasets" / part).iterdir():
            Image.open(path).convert("CMYK").convert("RGB").save(path)
    Image.new("RGBA", (28, 28), (1, 2, 3, 4)).save(folder / "x.png")


# --- what is no regular file ---


@refused("x.png: expected a regular file, but it is a named pipe", *FOLDER)
def a_pipe_that_nobody_writes_to(root):
    os.mkfifo(files.pictures(root) / "x.png")


@taken("in no class's folder (1): pipe", *FOLDER)
def a_pipe_among_the_classes(root):
    os.mkfifo(files.pictures(root).parent / "pipe")


@refused("x.png: expected a regular file, but it is a device", *FOLDER)
def a_device_without_end(root):
    (files.pictures(root) / "x.png").symlink_to("/dev/zero")


@refused("x.jpg: expected a regular file, but it is a device", *FOLDER)
def a_terminal(root):
    (files.pictures(root) / "x.jpg").symlink_to("/dev/tty")


@refused("x.png: expected a regular file, but it is a socket", *FOLDER)
def a_socket(root):
    folder = files.pictures(root)
    before = os.getcwd()
    os.chdir(folder)  # a socket's path may have 108 letters at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.png")
    finally:
        os.chdir(before)


@refused("cannot read", *FOLDER)
def a_link_to_nowhere(root):
    (files.pictures(root) / "x.png").symlink_to("nowhere")


@refused("cannot read", *FOLDER)
def a_link_to_itself(root):
    (files.pictures(root) / "x.png").symlink_to("x.png")


@taken("16 pictures in 2 classes", *FOLDER)
def a_folder_that_is_called_a_picture(root):
    (files.pictures(root) / "x.png").mkdir()


# --- classes and folders ---


@taken("a link to a folder around it (1): up", *FOLDER)
def a_class_that_is_a_link_to_the_parent(root):
    (files.pictures(root).parent / "up").symlink_to("..")


@taken("16 pictures in 2 classes", *FOLDER)
def a_hundred_links_that_lead_around(root):
    folder = files.pictures(root)
    for index in range(100):
        (folder / f"link {index}").symlink_to(("..", ".", "../dog/..", "/")[index % 4])


@taken("hidden (2): .ipynb_checkpoints, __MACOSX", *FOLDER)
def hidden_classes(root):
    folder = files.pictures(root).parent
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (folder / name).mkdir()
        (folder / name / "x.png").write_bytes(b"no picture")


@taken("hidden (1): cat/._picture 0.png", *FOLDER)
def what_macos_leaves_beside_a_picture(root):
    (files.pictures(root) / "._picture 0.png").write_bytes(b"\0\5\x16\7" + bytes(100))


@refused("none in empty", *FOLDER)
def a_class_without_files(root):
    (files.pictures(root).parent / "empty").mkdir()


@refused("none in words", *FOLDER)
def a_class_without_pictures(root):
    folder = files.pictures(root).parent / "words"
    folder.mkdir()
    (folder / "x.txt").write_text("no picture")


@taken("  [ab]    8\n  a       8\n  b       8\n  nut*    8\n  nutmeg  8", *FOLDER)
def classes_that_look_like_patterns(root):
    files.pictures(root, ("a", "b", "[ab]", "nut*", "nutmeg"))


@taken("'a\\nb\\x1b[2J'  8", *FOLDER)
def a_class_that_clears_the_screen(root):
    files.pictures(root, ("a\nb\x1b[2J", "c"))


@refused("'\\udcff' to have a name in UTF-8", *FOLDER)
def a_class_whose_name_is_not_utf_8(root):
    folder = files.pictures(root)
    folder.rename(folder.with_name(os.fsdecode(b"\xff")))


@taken("16 pictures in 2 classes", *FOLDER)
def a_picture_whose_name_is_not_utf_8(root):
    folder = files.pictures(root)
    (folder / "picture 0.png").rename(folder / os.fsdecode(b"\xff\xfe.png"))


@refused("cannot read the picture", *FOLDER)
def a_damaged_picture_whose_name_is_not_utf_8(root):
    (files.pictures(root) / os.fsdecode(b"\xff\n\xfe.png")).write_bytes(b"no picture")


@refused("there is no folder", *FOLDER)
def a_file_in_the_folders_place(root):
    (root / "datasets").mkdir()
    (root / "datasets/train").write_text("no folder")


@refused("holds no such folder", *FOLDER)
def pictures_without_classes(root):
    (root / "datasets/train").mkdir(parents=True)
    files.picture(0).save(root / "datasets/train/x.png")


@refused("cannot read the folder", *FOLDER)
def a_path_that_is_too_long_for_the_system(root):
    descriptor = os.open(files.pictures(root), os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=descriptor)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


@taken("of no format that Pillow reads (5000)", *FOLDER)
def thousands_of_files_that_are_no_pictures(root):
    folder = files.pictures(root)
    for index in range(5000):
        os.link(folder / "picture 0.png", folder / f"{index}.txt")


@refused("at least 10 training images", *FOLDER)
def too_few_pictures(root):
    files.pictures(root, count=2)


@pytest.mark.hostile
@pytest.mark.parametrize("build, message, said, options", CASES)
def test_hostile_data(tmp_path, build, message, said, options):
    check(tmp_path, build, message, said, options)


def test_the_number_of_cases():
    assert len(CASES) == 53
