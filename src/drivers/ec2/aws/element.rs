//! The answer of a query API, as a tree of its own: roxmltree reads it.
//!
//! Pure. Namespaces, attributes and comments mean nothing in these answers and are left out.

/// The longest answer that is read. A page of a thousand machines has some megabytes.
pub(super) const ANSWER_LIMIT: u64 = 16 << 20;
/// The deepest is below twenty; an answer that is deeper is no answer.
const DEPTH_LIMIT: usize = 100;
const NODES_LIMIT: u32 = 1_000_000;

/// An element: its name, its text, and the elements in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::drivers::ec2) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a whole answer. The error says what is wrong with it.
    pub(in crate::drivers::ec2) fn parse(xml: &str) -> Result<Self, String> {
        let options = roxmltree::ParsingOptions { nodes_limit: NODES_LIMIT, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(xml, options).map_err(|error| error.to_string())?;
        Self::of(document.root_element(), 0)
    }

    fn of(node: roxmltree::Node<'_, '_>, depth: usize) -> Result<Self, String> {
        if depth > DEPTH_LIMIT {
            return Err(format!("it has elements within elements more than {DEPTH_LIMIT} deep"));
        }
        let mut element = Self { name: node.tag_name().name().into(), ..Self::default() };
        for child in node.children() {
            if child.is_element() {
                element.children.push(Self::of(child, depth + 1)?);
            } else if child.is_text() {
                element.text.push_str(child.text().unwrap_or_default());
            }
        }
        Ok(element)
    }

    /// The first element at a path such as `placement/availabilityZone`.
    pub(in crate::drivers::ec2) fn at(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |element, name| element.children.iter().find(|child| child.name == name))
    }

    /// The text of the first element at a path.
    pub(in crate::drivers::ec2) fn text(&self, path: &str) -> Option<&str> {
        self.at(path).map(|element| element.text.as_str())
    }

    /// The members of the list at a path, `item` or `member`; none when there is no such list.
    pub(in crate::drivers::ec2) fn items<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Self> + use<'a> {
        let list = self.at(path).map(|list| list.children.as_slice()).unwrap_or_default();
        list.iter().filter(|child| matches!(&*child.name, "item" | "member"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_their_path() {
        let xml = r#"<?xml version="1.0"?><DescribeXResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
            <requestId>r</requestId><xSet><item><id>1</id><place><zone>a&amp;b</zone></place></item><!-- c -->
            <item><id>2</id></item></xSet><empty/></DescribeXResponse>"#;
        let answer = Element::parse(xml).unwrap();
        assert_eq!(answer.name, "DescribeXResponse");
        assert_eq!(answer.text("requestId"), Some("r"));
        let ids: Vec<_> = answer.items("xSet").filter_map(|item| item.text("id")).collect();
        assert_eq!(ids, ["1", "2"]);
        assert_eq!(answer.items("xSet").next().unwrap().text("place/zone"), Some("a&b"));
        assert_eq!(answer.text("empty"), Some(""));
        assert_eq!(answer.text("no/such"), None);
        assert_eq!(answer.items("nothing").count(), 0);
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for bad in ["", "<a>", "<a></b>", "not XML", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
        let deep = "<a>".repeat(200) + &"</a>".repeat(200);
        assert!(Element::parse(&deep).unwrap_err().contains("deep"));
        // As much as there may be: neither the stack nor the memory runs out.
        let limit = usize::try_from(ANSWER_LIMIT).unwrap();
        assert!(Element::parse(&"<a>".repeat(limit / 3)).is_err());
        assert!(Element::parse(&format!("<a>{}</a>", "<b/>".repeat(limit / 4))).is_err());
    }
}
