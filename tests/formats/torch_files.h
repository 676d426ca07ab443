// Zip files and pickles put together by hand, as torch.save puts them, for tests that damage them.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::testing {

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string u16(std::uint64_t value) {
  return little_endian(static_cast<std::uint16_t>(value));
}
inline std::string u32(std::uint64_t value) {
  return little_endian(static_cast<std::uint32_t>(value));
}
inline std::string u64(std::uint64_t value) { return little_endian(value); }

/// An entry, with all that a directory may say of it.
struct ZipPart {
  std::string name, data;
  std::uint16_t flags = 0, method = 0;
  std::string local_name = name;
};

enum class ZipEnd { plain, zip64 };

/// Entries one after the other, the directory, its end. With zip64 sizes and places stand in extra
/// fields, as if they were too large for 32 bits.
inline std::string zip_of(const std::vector<ZipPart>& parts, ZipEnd end = ZipEnd::plain) {
  const bool wide = end == ZipEnd::zip64;
  std::string bytes, directory;
  for (const ZipPart& part : parts) {
    const std::uint64_t at = bytes.size(), size = part.data.size();
    const std::string padding = u16(0x4246) + u16(3) + "ZZZ";  // torch's way to align data
    bytes += u32(0x04034b50) + u16(0) + u16(part.flags) + u16(part.method) + u32(0) + u32(0) +
             u32(0) + u32(0) + u16(part.local_name.size()) + u16(padding.size()) + part.local_name +
             padding + part.data;
    const std::string extra = wide ? u16(1) + u16(24) + u64(size) + u64(size) + u64(at) : "";
    const std::uint64_t shown_size = wide ? 0xFFFFFFFF : size;
    directory += u32(0x02014b50) + u16(0) + u16(0) + u16(part.flags) + u16(part.method) + u32(0) +
                 u32(0) + u32(shown_size) + u32(shown_size) + u16(part.name.size()) +
                 u16(extra.size()) + u16(0) + u16(0) + u16(0) + u32(0) +
                 u32(wide ? 0xFFFFFFFF : at) + part.name + extra;
  }
  const std::uint64_t at = bytes.size();
  bytes += directory;
  if (wide) {
    const std::uint64_t end_at = bytes.size();
    bytes += u32(0x06064b50) + u64(44) + u16(0) + u16(0) + u32(0) + u32(0) + u64(parts.size()) +
             u64(parts.size()) + u64(directory.size()) + u64(at);
    bytes += u32(0x07064b50) + u32(0) + u64(end_at) + u32(1);
  }
  return bytes + u32(0x06054b50) + u16(0) + u16(0) + u16(wide ? 0xFFFF : parts.size()) +
         u16(wide ? 0xFFFF : parts.size()) + u32(wide ? 0xFFFFFFFF : directory.size()) +
         u32(wide ? 0xFFFFFFFF : at) + u16(0);
}

/// A file of torch.save with this pickle and these storages: data/0, data/1, ...
inline std::string torch_file(const std::string& pickle, const std::vector<std::string>& storages,
                              ZipEnd end = ZipEnd::zip64) {
  std::vector<ZipPart> parts = {{.name = "model/data.pkl", .data = pickle},
                                {.name = "model/byteorder", .data = "little"}};
  for (std::size_t i = 0; i < storages.size(); ++i) {
    parts.push_back({.name = "model/data/" + std::to_string(i), .data = storages[i]});
  }
  parts.push_back({.name = "model/version", .data = "3\n"});
  return zip_of(parts, end);
}

// Pieces of pickles.

inline std::string text(std::string_view value) {
  std::string bytes = "X";
  bytes += u32(value.size());
  bytes += value;
  return bytes;
}
inline std::string integer(std::int64_t value) {
  return std::string("\x8a\x08", 2) + little_endian(value);
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const std::string& item : items) bytes += item;
  return bytes + "t";
}
inline std::string integers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const std::int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
inline std::string empty_dict() { return global("collections", "OrderedDict") + ")R"; }
inline std::string dict(const std::vector<std::string>& keys_and_values) {
  std::string bytes = "}(";
  for (const std::string& item : keys_and_values) bytes += item;
  return bytes + "u";
}
inline std::string storage(const std::string& kind, const std::string& key, std::int64_t elements) {
  return tuple(
             {text("storage"), global("torch", kind), text(key), text("cpu"), integer(elements)}) +
         "Q";
}
inline std::string tensor(const std::string& storage, std::int64_t offset,
                          const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(
             {storage, integer(offset), integers(shape), integers(strides), "\x89", empty_dict()}) +
         "R";
}
inline std::string pickle(const std::string& value) { return "\x80\x02" + value + "."; }

}  // namespace trestle::testing
