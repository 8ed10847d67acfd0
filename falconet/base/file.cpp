#include "falconet/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "falconet/base/error.h"

namespace falconet {
namespace {

std::string reason(int code) { return std::generic_category().message(code); }   // strerror, safe with threads

[[noreturn]] void fail_file(std::string const& path, std::string const& what, int code) {
  fail(ErrorKind::file, path + ": " + what + ": " + reason(code));
}

std::string folder_of(std::string const& path) {
  auto const slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// A name is on the disk only when its folder is. A file system that cannot do this (EINVAL) has no better way either.
void sync_folder_of(std::string const& path) {
  int const folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  int const code = ::fsync(folder) == 0 ? 0 : errno;
  ::close(folder);
  if (code == EIO || code == ENOSPC || code == EDQUOT) fail_file(path, "cannot be written to the disk", code);
}

bool same_file(struct stat const& a, struct stat const& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

// Opens and locks `name` for writing; -1 with errno set. The lock tells a temporary in use from one left behind by a killed process.
int open_temporary(std::string const& name) {
  while (true) {
    int const descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (descriptor < 0) return -1;
    struct stat mine{}, there{};
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 || ::fstat(descriptor, &mine) != 0) {
      int const code = errno;
      ::close(descriptor);
      errno = code;
      return -1;
    }
    // Between open and flock the former owner may have renamed the file into place: then it is no longer ours to touch.
    if (::stat(name.c_str(), &there) == 0 && same_file(mine, there)) {
      if (::ftruncate(descriptor, 0) == 0) return descriptor;
      int const code = errno;
      ::close(descriptor);
      errno = code;
      return -1;
    }
    ::close(descriptor);
  }
}

}  // namespace

FileReader::FileReader(std::string const& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) fail_file(path, "cannot be opened", errno);
  struct stat info{};
  int code = ::fstat(descriptor_, &info) != 0 ? errno : S_ISDIR(info.st_mode) ? EISDIR : 0;
  if (code != 0) {
    ::close(descriptor_);
    fail_file(path, "cannot be read", code);
  }
  size_ = info.st_size > 0 ? std::size_t(info.st_size) : 0;
}

FileReader::~FileReader() { ::close(descriptor_); }

std::size_t FileReader::read(std::span<std::byte> out) {
  std::size_t got = 0;
  while (got < out.size()) {
    ssize_t const n = ::read(descriptor_, out.data() + got, out.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_file(path_, "cannot be read", errno);
    if (n == 0) break;
    got += std::size_t(n);
  }
  return got;
}

FileBytes read_file(std::string const& path) {
  FileReader reader(path);
  FileBytes out{std::make_unique_for_overwrite<std::byte[]>(reader.size() + 1), 0};
  std::size_t capacity = reader.size() + 1;   // one more, so that the end shows in the first read
  while (true) {
    std::size_t const got = reader.read({out.memory.get() + out.size, capacity - out.size});
    out.size += got;
    if (out.size < capacity) return out;
    capacity *= 2;                            // a pipe, or a file that grows while it is read
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    std::memcpy(larger.get(), out.memory.get(), out.size);
    out.memory = std::move(larger);
  }
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  if (path_.empty() || path_.back() == '/') fail_file("'" + path_ + "'", "cannot be written", EISDIR);
  for (int attempt = 0; attempt < 100; ++attempt) {   // more than one: other writers of the same path at this moment
    temporary_ = path_ + (attempt ? ".tmp" + std::to_string(attempt) : ".tmp");
    descriptor_ = open_temporary(temporary_);
    if (descriptor_ >= 0 || errno != EWOULDBLOCK) break;
  }
  if (descriptor_ < 0) {
    int const code = errno;
    temporary_.clear();
    fail_file(path_, "cannot be written", code);
  }
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());   // before close: while the lock is held it is certainly ours
  ::close(descriptor_);
  descriptor_ = -1;
}

void AtomicFile::give_up(char const* what) {
  int const code = errno;
  discard();
  fail_file(path_, what, code);
}

void AtomicFile::write(std::span<std::byte const> bytes) {
  if (descriptor_ < 0) fail(ErrorKind::internal, path_ + ": written after the end");
  while (!bytes.empty()) {
    ssize_t const n = ::write(descriptor_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) give_up("cannot be written");
    bytes = bytes.subspan(std::size_t(n));
  }
}

void AtomicFile::commit() {
  if (descriptor_ < 0) fail(ErrorKind::internal, path_ + ": committed twice");
  if (::fsync(descriptor_) != 0) give_up("cannot be written to the disk");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) give_up("cannot be replaced");
  ::close(descriptor_);
  descriptor_ = -1;
  sync_folder_of(path_);
}

void replace_file(std::string const& from, std::string const& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_file(to, "cannot be replaced by " + from, errno);
  sync_folder_of(to);
}

void write_atomically(std::string const& path, std::span<std::byte const> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}
void write_atomically(std::string const& path, std::string_view text) { write_atomically(path, std::as_bytes(std::span(text))); }

void make_folders(std::string const& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (!code && !std::filesystem::is_directory(path, code)) code = std::make_error_code(std::errc::not_a_directory);
  if (code) fail_file(path, "the folder cannot be made", code.value());
}

FileLock::FileLock(std::string const& path) : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0) fail_file(path, "cannot be locked", errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    int const code = errno;
    char owner[32] = {};
    ssize_t const n = code == EWOULDBLOCK ? ::read(descriptor_, owner, sizeof owner - 1) : 0;
    ::close(descriptor_);
    if (code != EWOULDBLOCK) fail_file(path, "cannot be locked", code);
    std::string who = "another process";
    if (n > 1) who = "process " + std::string(owner, std::size_t(n - 1));   // without the line's end
    fail(ErrorKind::file, path + ": in use by " + who);
  }
  std::string const id = std::to_string(::getpid()) + "\n";
  // What the file says only serves the message above, so a full disk is no reason to refuse the lock.
  if (::ftruncate(descriptor_, 0) != 0 || ::pwrite(descriptor_, id.data(), id.size(), 0) < 0) return;
}

FileLock::~FileLock() { ::close(descriptor_); }

}  // namespace falconet
