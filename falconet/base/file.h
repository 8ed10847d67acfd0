// Files: read whole, written atomically, locked. Every failure is Error{file} and names the path and the system's reason.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace falconet {

struct FileBytes {
  std::unique_ptr<std::byte[]> memory;
  std::size_t size = 0;
  std::span<std::byte const> bytes() const { return {memory.get(), size}; }
  std::string_view text() const { return {reinterpret_cast<char const*>(memory.get()), size}; }
};
FileBytes read_file(std::string const& path);

// Reads from the front to the back, in pieces of the caller's size.
class FileReader {
 public:
  explicit FileReader(std::string const& path);   // a folder, say, is refused
  FileReader(FileReader const&) = delete;
  FileReader& operator=(FileReader const&) = delete;
  ~FileReader();
  std::size_t read(std::span<std::byte> out);     // as many bytes as are there; 0 at the end
  std::size_t size() const { return size_; }      // of the whole file
  std::string const& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  std::size_t size_ = 0;
};

// Writes to a temporary file in the same folder, which replaces `path` on commit() after it has reached the disk. Without a
// commit, or when anything fails (disk full, size limit, no permission), the temporary goes and the old file stays as it was.
// A temporary that a killed process left behind is used again.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(AtomicFile const&) = delete;
  AtomicFile& operator=(AtomicFile const&) = delete;
  ~AtomicFile();
  void write(std::span<std::byte const> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  [[noreturn]] void give_up(char const* what);
  void discard() noexcept;
  std::string path_, temporary_;
  int descriptor_ = -1;
};
void write_atomically(std::string const& path, std::span<std::byte const> bytes);
void write_atomically(std::string const& path, std::string_view text);

// `from` takes the place of `to` in the same folder; when this returns, the new names are on the disk.
void replace_file(std::string const& from, std::string const& to);

void make_folders(std::string const& path);   // and its parents, where they are missing

// Held while the object lives; the kernel lets go when the process ends, however it ends. The file holds the process id.
class FileLock {
 public:
  explicit FileLock(std::string const& path);   // throws at once if another process, or another FileLock, holds it
  FileLock(FileLock const&) = delete;
  FileLock& operator=(FileLock const&) = delete;
  ~FileLock();

 private:
  int descriptor_ = -1;
};

}  // namespace falconet
