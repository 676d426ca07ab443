#include "formats/zip_directory.h"

#include "formats/file_problem.h"
#include "formats/strict_json.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <span>
#include <string_view>

namespace trestle::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "zip files are little-endian");

constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kLocator64Signature = 0x07064b50;
constexpr std::uint32_t kDirectorySignature = 0x02014b50;
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::size_t kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr std::size_t kDirectoryEntryBytes = 46, kLocalBytes = 30;

constexpr std::uint32_t kIn64 = 0xFFFFFFFF;  // "see the ZIP64 part"
constexpr std::uint16_t kEncrypted = 1;
constexpr std::uint16_t kZip64Extra = 1;

constexpr std::uint64_t kMaxDirectoryBytes = 64 << 20;
constexpr std::string_view kStoreIt =
    "Save it again with torch.save, which stores entries as they are.";

/// Fixed-width numbers of a piece of the file, by offset. The caller knows that they are inside.
class Record {
 public:
  explicit Record(std::string_view bytes) : bytes_(bytes) {}
  std::uint16_t u16(std::size_t at) const { return number<std::uint16_t>(at); }
  std::uint32_t u32(std::size_t at) const { return number<std::uint32_t>(at); }
  std::uint64_t u64(std::size_t at) const { return number<std::uint64_t>(at); }

 private:
  template <class T>
  T number(std::size_t at) const {
    T value;
    std::memcpy(&value, bytes_.substr(at, sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view bytes_;
};

std::string read(const FileReader& file, std::uint64_t at, std::uint64_t bytes) {
  std::string text(bytes, '\0');
  file.read_exact(at, std::as_writable_bytes(std::span(text)));
  return text;
}

/// Where the directory lies.
struct Directory {
  std::uint64_t entries = 0, begin = 0, bytes = 0;
};

/// The ZIP64 end record in front of `end_at`, where the plain one begins.
Directory read_end64(const FileReader& file, std::uint64_t end_at) {
  const std::string locator_bytes = read(file, end_at - kLocator64Bytes, kLocator64Bytes);
  const Record locator(locator_bytes);
  const std::uint64_t at = locator.u64(8);
  const std::uint64_t last = end_at - kLocator64Bytes;
  if (locator.u32(4) != 0 || locator.u32(16) > 1) refuse_damaged("it spreads over several disks");
  if (at > last || last - at < kEnd64Bytes) {
    refuse_damaged("its ZIP64 end record is said to be at {}, where none fits", at);
  }
  const std::string bytes = read(file, at, kEnd64Bytes);
  const Record record(bytes);
  if (record.u32(0) != kEnd64Signature) refuse_damaged("at {} is no ZIP64 end record", at);
  if (record.u32(16) != 0 || record.u32(20) != 0 || record.u64(24) != record.u64(32)) {
    refuse_damaged("it spreads over several disks");
  }
  Directory found{.entries = record.u64(32), .begin = record.u64(48), .bytes = record.u64(40)};
  if (found.begin > at || found.bytes != at - found.begin) {
    refuse_damaged("its directory of {} bytes at {} does not end at its end record ({})",
                   found.bytes, found.begin, at);
  }
  return found;
}

Directory find_directory(const FileReader& file) {
  if (file.size_bytes() < kEndBytes) refuse_damaged("it has only {} bytes", file.size_bytes());
  const std::uint64_t end_at = file.size_bytes() - kEndBytes;
  const std::string bytes = read(file, end_at, kEndBytes);
  const Record end(bytes);
  if (end.u32(0) != kEndSignature || end.u16(20) != 0) {
    refuse_damaged("it does not end as a zip file does: it is another format, or it was cut off");
  }
  if (end_at >= kLocator64Bytes &&
      Record(read(file, end_at - kLocator64Bytes, 4)).u32(0) == kLocator64Signature) {
    return read_end64(file, end_at);
  }
  if (end.u16(4) != 0 || end.u16(6) != 0 || end.u16(8) != end.u16(10)) {
    refuse_damaged("it spreads over several disks");
  }
  const Directory found{.entries = end.u16(10), .begin = end.u32(16), .bytes = end.u32(12)};
  if (found.begin > end_at || found.bytes != end_at - found.begin) {
    refuse_damaged("its directory of {} bytes at {} does not end at its end record ({})",
                   found.bytes, found.begin, end_at);
  }
  return found;
}

/// What a directory entry says, before its local header has been seen.
struct Listed {
  std::string name;
  std::uint64_t header_at = 0, size_bytes = 0;
};

/// Replaces sizes and offset that do not fit in 32 bits by those of the extra field.
void read_extra64(const std::string& name, std::string_view extra, std::uint64_t& size,
                  std::uint64_t& packed_size, std::uint64_t& header_at) {
  while (extra.size() >= 4) {
    const Record field(extra);
    const std::size_t bytes = field.u16(2);
    if (bytes > extra.size() - 4) break;
    if (field.u16(0) == kZip64Extra) {
      std::size_t at = 4;
      for (std::uint64_t* value : {&size, &packed_size, &header_at}) {
        if (*value != kIn64) continue;
        if (at + 8 > 4 + bytes) refuse_damaged("entry {}: its ZIP64 field is short", shown(name));
        *value = field.u64(at);
        at += 8;
      }
      return;
    }
    extra.remove_prefix(4 + bytes);
  }
}

std::vector<Listed> read_entries(std::string_view directory, std::uint64_t count) {
  std::vector<Listed> entries;
  std::set<std::string_view> names;
  for (; count > 0; --count) {
    if (directory.size() < kDirectoryEntryBytes) refuse_damaged("its directory ends too early");
    const Record record(directory);
    if (record.u32(0) != kDirectorySignature) refuse_damaged("its directory is garbled");
    const std::size_t name_bytes = record.u16(28), extra_bytes = record.u16(30);
    const std::size_t bytes = kDirectoryEntryBytes + name_bytes + extra_bytes + record.u16(32);
    if (bytes > directory.size()) refuse_damaged("its directory ends too early");
    Listed entry{std::string(directory.substr(kDirectoryEntryBytes, name_bytes)), record.u32(42),
                 record.u32(24)};
    std::uint64_t packed_size = record.u32(20);
    read_extra64(entry.name, directory.substr(kDirectoryEntryBytes + name_bytes, extra_bytes),
                 entry.size_bytes, packed_size, entry.header_at);
    if ((record.u16(8) & kEncrypted) != 0) {
      throw FileProblem(fmt::format("entry {} is encrypted", shown(entry.name)), kStoreIt);
    }
    if (record.u16(10) != 0) {
      throw FileProblem(
          fmt::format("entry {} is compressed (method {})", shown(entry.name), record.u16(10)),
          kStoreIt);
    }
    if (packed_size != entry.size_bytes) {
      refuse_damaged("entry {} is stored, but has {} bytes of {}", shown(entry.name), packed_size,
                     entry.size_bytes);
    }
    entries.push_back(std::move(entry));
    directory.remove_prefix(bytes);
  }
  if (!directory.empty()) refuse_damaged("its directory goes on after the last entry");
  for (const Listed& entry : entries) {
    if (!names.insert(entry.name).second) {
      refuse_damaged("two entries are named {}", shown(entry.name));
    }
  }
  return entries;
}

/// Finds where the data begins; the local header must name the same entry.
ZipEntry locate(const FileReader& file, const Listed& listed, std::uint64_t end) {
  const auto outside = [&] { refuse_damaged("entry {} lies outside", shown(listed.name)); };
  const std::uint64_t fixed = kLocalBytes + listed.name.size();
  if (listed.header_at > end || end - listed.header_at < fixed) outside();
  const std::string header = read(file, listed.header_at, fixed);
  const Record record(header);
  if (record.u32(0) != kLocalSignature || record.u16(26) != listed.name.size() ||
      std::string_view(header).substr(kLocalBytes) != listed.name) {
    refuse_damaged("entry {} has another local header", shown(listed.name));
  }
  const std::uint64_t begin = listed.header_at + fixed + record.u16(28);
  if (begin > end || listed.size_bytes > end - begin) outside();
  return {listed.name, begin, listed.size_bytes};
}

/// Entries that share bytes are how a small file pretends to be a huge one.
void check_overlap(const std::vector<Listed>& listed, const std::vector<ZipEntry>& entries) {
  struct Range {
    std::uint64_t begin, end;
    std::size_t entry;
  };
  std::vector<Range> ranges;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    ranges.push_back({listed[i].header_at, entries[i].begin_bytes + entries[i].size_bytes, i});
  }
  std::ranges::sort(ranges, {}, &Range::begin);
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) {
      refuse_damaged("entry {} overlaps entry {}", shown(entries[ranges[i].entry].name),
                     shown(entries[ranges[i - 1].entry].name));
    }
  }
}

}  // namespace

std::vector<ZipEntry> read_zip_directory(const FileReader& file) {
  const Directory directory = find_directory(file);
  if (directory.bytes > kMaxDirectoryBytes) {
    refuse_damaged("its directory has {} bytes, and {} are the most", directory.bytes,
                   kMaxDirectoryBytes);
  }
  const auto listed = read_entries(read(file, directory.begin, directory.bytes), directory.entries);
  std::vector<ZipEntry> entries;
  entries.reserve(listed.size());
  for (const Listed& entry : listed) entries.push_back(locate(file, entry, directory.begin));
  check_overlap(listed, entries);
  return entries;
}

}  // namespace trestle::formats
