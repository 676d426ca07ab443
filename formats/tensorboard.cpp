#include "formats/tensorboard.h"

#include "formats/png.h"

#include <climits>
#include <fmt/format.h>

#include <array>
#include <bit>
#include <chrono>
#include <unistd.h>

namespace trestle::formats {
namespace {

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  constexpr std::uint32_t kCastagnoli = 0x82F63B78u;  // its polynomial, lowest power first
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = (rest >> 1) ^ (rest & 1 ? kCastagnoli : 0);
    table[byte] = rest;
  }
  return table;
}();

/// A checksum of data that holds checksums is weak; the mask of the record format mends that.
std::uint32_t masked_crc32c(std::string_view data) {
  std::uint32_t crc = ~0u;
  for (const char c : data)
    crc = kCrcTable[(crc ^ static_cast<std::uint8_t>(c)) & 0xFF] ^ (crc >> 8);
  return std::rotr(~crc, 15) + 0xA282EAD8u;
}

template <class Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

std::string record(std::string_view data) {
  std::string out;
  put_little_endian(out, std::uint64_t{data.size()});
  put_little_endian(out, masked_crc32c(out));
  out += data;
  put_little_endian(out, masked_crc32c(data));
  return out;
}

/// A protocol buffer message: each field is its number and wire type, then its value.
class Message {
 public:
  void integer(int field, std::int64_t value) {
    key(field, 0);
    varint(static_cast<std::uint64_t>(value));
  }
  void fp64(int field, double value) {
    key(field, 1);
    put_little_endian(bytes_, std::bit_cast<std::uint64_t>(value));
  }
  /// Strings, bytes and inner messages.
  void bytes(int field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
  }
  void fp32(int field, float value) {
    key(field, 5);
    put_little_endian(bytes_, std::bit_cast<std::uint32_t>(value));
  }
  const std::string& encoded() const { return bytes_; }

 private:
  void key(int field, int wire_type) { varint(static_cast<std::uint64_t>(field << 3 | wire_type)); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
namespace event_field {
enum { wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7 };
}
namespace session_field {
enum { status = 1 };
}
constexpr std::int64_t kSessionStart = 1;
namespace summary_field {
enum { value = 1 };
}
namespace value_field {
enum { tag = 1, simple_value = 2, image = 4 };
}
namespace image_field {
enum { height = 1, width = 2, colorspace = 3, encoded = 4 };
}
constexpr std::int64_t kRgb = 3;

Message event(std::int64_t step) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  Message message;
  message.fp64(event_field::wall_time, std::chrono::duration<double>(now).count());
  message.integer(event_field::step, step);
  return message;
}

std::string opening(std::int64_t first_step) {
  Message version = event(0);
  version.bytes(event_field::file_version, "brain.Event:2");
  Message session;
  session.integer(session_field::status, kSessionStart);
  Message start = event(first_step);
  start.bytes(event_field::session_log, session.encoded());
  return record(version.encoded()) + record(start.encoded());
}

/// TensorBoard reads the files of a folder in the order of their names, so time comes first, and a
/// process number of fixed width where two are of one second.
std::string file_name() {
  char host[HOST_NAME_MAX + 1] = "";
  ::gethostname(host, sizeof host - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("events.out.tfevents.{:010}.{}.{:07}",
                     std::chrono::duration_cast<std::chrono::seconds>(now).count(), host,
                     ::getpid());
}

}  // namespace

EventWriter::EventWriter(const std::filesystem::path& folder, std::int64_t first_step)
    : file_(folder / file_name()), opening_(opening(first_step)) {}

void EventWriter::scalars(std::int64_t step, const std::map<std::string, double>& values) {
  Message summary;
  for (const auto& [tag, value] : values) {
    Message scalar;
    scalar.bytes(value_field::tag, tag);
    scalar.fp32(value_field::simple_value, static_cast<float>(value));
    summary.bytes(summary_field::value, scalar.encoded());
  }
  Message all = event(step);
  all.bytes(event_field::summary, summary.encoded());
  append(all.encoded());
}

void EventWriter::picture(std::int64_t step, std::string_view tag, const Picture& picture) {
  const std::vector<std::byte> png = encode_png(picture);
  Message image;
  image.integer(image_field::height, picture.height);
  image.integer(image_field::width, picture.width);
  image.integer(image_field::colorspace, kRgb);
  image.bytes(image_field::encoded, {reinterpret_cast<const char*>(png.data()), png.size()});
  Message value;
  value.bytes(value_field::tag, tag);
  value.bytes(value_field::image, image.encoded());
  Message summary;
  summary.bytes(summary_field::value, value.encoded());
  Message all = event(step);
  all.bytes(event_field::summary, summary.encoded());
  append(all.encoded());
}

void EventWriter::append(std::string_view event) {
  file_.append(opening_ + record(event));
  opening_.clear();
}

}  // namespace trestle::formats
