#include <array>
#include <csetjmp>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include <jerror.h>
#include <jpeglib.h>

#include "image_file.hpp"

namespace cli {
namespace {

constexpr unsigned EXIF = JPEG_APP0 + 1, SOS = 0xDA;
constexpr std::size_t MAX_PIXELS = std::size_t{1} << 28;
constexpr int MAX_SCANS = 100;  ///< of a progressive JPEG; each takes as long as decoding the image once

/// Error handler of libjpeg. It returns by longjmp, which skips destructors: code below setjmp must not own resources.
struct Errors {
    jpeg_error_mgr base;
    std::jmp_buf back;
    std::array<char, JMSG_LENGTH_MAX> message;
    bool cut_off;  ///< The data end before the image does.
};

void jump_back(j_common_ptr info) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    info->err->format_message(info, errors->message.data());
    std::longjmp(errors->back, 1);
}

/// A decoder, which the destructor frees.
struct Decoder {
    jpeg_decompress_struct info{};
    Errors errors{};
    Decoder() {
        info.err = jpeg_std_error(&errors.base);
        errors.base.error_exit = jump_back;
        errors.base.emit_message = [](j_common_ptr source, int level) {
            if (level < 0 && source->err->msg_code == JWRN_JPEG_EOF) reinterpret_cast<Errors*>(source->err)->cut_off = true;
        };
    }
    ~Decoder() { jpeg_destroy_decompress(&info); }
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
};

/// Read the header. Returns false with a message in `decoder` on an error.
bool open(Decoder& decoder, const std::string& bytes) {
    if (setjmp(decoder.errors.back) != 0) return false;
    jpeg_create_decompress(&decoder.info);
    jpeg_mem_src(&decoder.info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
    jpeg_save_markers(&decoder.info, static_cast<int>(EXIF), 0xFFFF);
    jpeg_read_header(&decoder.info, TRUE);
    decoder.info.out_color_space = JCS_RGB;
    return true;
}

/// Decode all rows to `out`. Returns false with a message in `decoder` on an error.
bool decode(Decoder& decoder, std::uint8_t* out) {
    if (setjmp(decoder.errors.back) != 0) return false;
    jpeg_start_decompress(&decoder.info);
    const std::size_t row = std::size_t{3} * decoder.info.output_width;
    while (decoder.info.output_scanline < decoder.info.output_height) {
        JSAMPROW at = out + row * decoder.info.output_scanline;
        jpeg_read_scanlines(&decoder.info, &at, 1);
    }
    jpeg_finish_decompress(&decoder.info);
    return true;
}

/// Return the orientation in an EXIF marker, 1 to 8, or 0 if there is none.
int orientation(const std::uint8_t* data, std::size_t size) {
    constexpr std::array<std::uint8_t, 6> NAME = {'E', 'x', 'i', 'f', 0, 0};
    constexpr unsigned ORIENTATION = 0x0112;
    if (size < NAME.size() + 8) return 0;
    for (std::size_t i = 0; i < NAME.size(); ++i)
        if (data[i] != NAME[i]) return 0;
    data += NAME.size(), size -= NAME.size();  // the rest is a TIFF file
    const bool little = data[0] == 'I';
    const auto number = [&](std::size_t at, std::size_t bytes) -> std::size_t {
        if (at > size || size - at < bytes) return 0;
        std::size_t value = 0;
        for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | data[at + (little ? bytes - 1 - i : i)];
        return value;
    };
    const std::size_t table = number(4, 4), entries = number(table, 2);
    for (std::size_t i = 0; i < entries; ++i)
        if (number(table + 2 + 12 * i, 2) == ORIENTATION) return static_cast<int>(number(table + 2 + 12 * i + 8, 2) & 15U);
    return 0;
}

/// Count the scans (ITU T.81, B.1). As in libjpeg, bytes between segments and unexpected restarts are skipped.
int count_scans(const std::string& bytes) {
    const auto byte = [&](std::size_t at) { return at < bytes.size() ? static_cast<std::uint8_t>(bytes[at]) : 0U; };
    int scans = 0;
    for (std::size_t at = bytes.find('\xff', 2); at < bytes.size(); at = bytes.find('\xff', at)) {
        const unsigned marker = byte(++at);
        if (marker == 0 || marker == 1 || marker == 0xFF || (marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7)) continue;
        if (marker == JPEG_EOI) break;
        if (marker == SOS) ++scans;
        at += 1 + (byte(at + 1) << 8 | byte(at + 2));
    }
    return scans;
}

}  // namespace

LoadedImage read_jpeg(const std::string& path) {
    const std::string bytes = read_file(path);
    Decoder decoder;
    const auto fail = [&]() -> LoadedImage {
        throw std::runtime_error(path + " is not a JPEG that can be read (" + decoder.errors.message.data() + ")");
    };
    if (!open(decoder, bytes)) return fail();
    LoadedImage image;
    image.width = static_cast<int>(decoder.info.image_width), image.height = static_cast<int>(decoder.info.image_height);
    const std::size_t count = std::size_t{decoder.info.image_width} * decoder.info.image_height;
    if (count > MAX_PIXELS)  // before memory is allocated
        throw std::runtime_error(path + " has " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                                 " pixels, more than the " + std::to_string(MAX_PIXELS) +
                                 " that are decoded: replace it or leave it out");
    if (const int scans = count_scans(bytes); scans > MAX_SCANS)
        throw std::runtime_error(path + " is a JPEG of " + std::to_string(scans) + " scans, more than the " +
                                 std::to_string(MAX_SCANS) + " that are decoded: save it anew");
    int turn = 0;
    for (const jpeg_marker_struct* marker = decoder.info.marker_list; marker != nullptr; marker = marker->next) {
        const int found = marker->marker == EXIF ? orientation(marker->data, marker->data_length) : 0;
        if (found != 0 && turn != 0 && found != turn)
            throw std::runtime_error(path + " has two EXIF orientations, of which readers take different ones: save it anew");
        if (turn == 0) turn = found;
    }
    image.pixels.resize(count * 3);
    if (!decode(decoder, image.pixels.data())) return fail();
    if (decoder.errors.cut_off)
        throw std::runtime_error(path + " is a JPEG that is cut off: copy it again, or open it elsewhere and save it anew");
    return oriented(std::move(image), turn);
}

}  // namespace cli
