// TensorBoard's event files: scalars and pictures over the steps of a run.
//
// A file is a row of records, each: length (8 bytes), checksum of the length (4), data, checksum of
// the data (4), little-endian. The checksum is CRC-32C, rotated and shifted ("masked"), as
// TensorFlow's record format wants it. The data is a protocol buffer `Event`, whose few fields used
// here are encoded by hand. The first two events are the format's version and the START of a
// session: readers drop what earlier files of the folder say from that step on, so a resumed run
// shows each step once.
//
// LOCAL. THREADS: one a writer. Errors: ExitCode::environment; the file then still ends in a whole
// record, and a later call may succeed.
//   EventWriter events("runs/cats", 1);
//   events.scalars(12, {{"loss", 0.25}, {"lr", 1e-4}});
//   events.picture(12, "samples", picture);
#pragma once
#include "formats/append_file.h"
#include "formats/picture.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace trestle::formats {

class EventWriter {
 public:
  /// Makes events.out.tfevents.<time>.<host>.<process> in the folder, empty until the first event.
  EventWriter(const std::filesystem::path& folder, std::int64_t first_step);

  /// Values by tag; TensorBoard groups tags by what stands before their "/". Stored in fp32.
  void scalars(std::int64_t step, const std::map<std::string, double>& values);
  /// Stored as PNG.
  void picture(std::int64_t step, std::string_view tag, const Picture& picture);

 private:
  void append(std::string_view event);

  AppendFile file_;
  std::string opening_;  ///< version and START; empty once they are in the file
};

}  // namespace trestle::formats
